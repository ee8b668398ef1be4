"""The code that walks a table of jobs, as LLVM IR; jobs.py says what it does and why.

Four functions that no kernel knows of: `run` takes part in a run, `lead` starts one and takes
part, `serve` waits for letters in a mailbox and takes part when one comes; `alone` is a run that
nobody else takes part in, and touches no counter.
"""

from __future__ import annotations

import sys

from nnconv.runtime.devices import jit
from nnconv.runtime.kernels.target import Target

COUNT_BITS = 40  # items of a job; the bits above hold the number of the run
LINE = 8  # int64 in a cache line: each counter has one of its own
JOB_WORDS = 5  # function, arguments, items, items of a chunk, items of a segment
MAIL_WORDS = 2 * LINE  # int64 of a mailbox
_LETTER = ("jobs", "count", "counters", "number", "segments")  # in a mailbox, behind its ticket
_SPINS = 3000  # pauses before a waiting thread starts to give its core away
_IDLE_YIELDS = 1500  # further turns before an idle helper goes to sleep: about a millisecond


def walking_text(target: Target) -> jit.Text:
    """`nnconv_run`, `nnconv_serve`, `nnconv_lead` and `nnconv_alone` for a kind of processor."""
    give_way = "SwitchToThread" if _on_windows(target) else "sched_yield"
    if target.triple.startswith(("aarch64", "arm64")):
        pause, declare = "@llvm.aarch64.hint(i32 1)", "declare void @llvm.aarch64.hint(i32)"
    else:
        pause, declare = "@llvm.x86.sse2.pause()", "declare void @llvm.x86.sse2.pause()"
    text = f"""\
{_run(pause, give_way)}
{_serve(pause, give_way)}
{_lead()}
{_ALONE}
{declare}
declare i32 @{give_way}()
attributes #0 = {{ nounwind }}
"""
    return jit.Text("nnconv_run", text, ("nnconv_serve", "nnconv_lead", "nnconv_alone"))


def _on_windows(target: Target) -> bool:
    return "windows" in target.triple or sys.platform == "win32"


def _run(pause: str, give_way: str) -> str:
    """`nnconv_run`: for each job take chunks from all segments, then wait for the other threads."""
    return "".join(
        (
            _begin(),
            _read_job(),
            _enter_segment(),
            _work_chunks(),
            _leave_segment(),
            _wait_for_all(pause, give_way),
            _end(),
        )
    )


def _begin() -> str:
    """What a run of `count` jobs starts with: its tag, and where this thread begins to look."""
    return f"""\
; run: walk `count` jobs of (function, arguments, total, chunk, span of a segment) as thread `me`;
; counters (of items done, then of items taken from each segment) belong to run `number`.
define i64 @nnconv_run(ptr %jobs, i64 %count, ptr %counters, i64 %number, i64 %segments, i64 %me)
#0 {{
entry:
  %tag = shl i64 %number, {COUNT_BITS}
  %own = urem i64 %me, %segments
  %lines = add i64 %segments, 1
  %job.counters = mul i64 %lines, {LINE}
  br label %job
"""


def _read_job() -> str:
    """Take job `j` out of the table; the thread's own segment comes first."""
    return f"""\
job:
  %j = phi i64 [ 0, %entry ], [ %j.next, %finished ]
  %j.at = mul i64 %j, {JOB_WORDS}
  %p.function = getelementptr i64, ptr %jobs, i64 %j.at
  %p.arguments = getelementptr i64, ptr %p.function, i64 1
  %p.total = getelementptr i64, ptr %p.function, i64 2
  %p.chunk = getelementptr i64, ptr %p.function, i64 3
  %p.span = getelementptr i64, ptr %p.function, i64 4
  %function = load ptr, ptr %p.function
  %arguments = load ptr, ptr %p.arguments
  %total = load i64, ptr %p.total
  %chunk = load i64, ptr %p.chunk
  %span = load i64, ptr %p.span
  %c.at = mul i64 %j, %job.counters
  %done = getelementptr i64, ptr %counters, i64 %c.at
  %end = add i64 %tag, %total
  br label %segment
"""


def _enter_segment() -> str:
    """The items of segment `s`, and its counter; past the end of the job it holds none."""
    return f"""\
segment:
  %s = phi i64 [ %own, %job ], [ %s.next, %next.segment ]
  %visited = phi i64 [ 0, %job ], [ %visited.next, %next.segment ]
  %mine = phi i64 [ 0, %job ], [ %so.far, %next.segment ]
  %base = mul i64 %s, %span
  %beyond = add i64 %base, %span
  %cut = icmp ult i64 %beyond, %total
  %limit = select i1 %cut, i64 %beyond, i64 %total
  %start = sub i64 %base, %tag
  %some = icmp ult i64 %base, %total
  %s.line = add i64 %s, 1
  %s.at = mul i64 %s.line, {LINE}
  %next = getelementptr i64, ptr %done, i64 %s.at
  br i1 %some, label %look, label %next.segment
"""


def _work_chunks() -> str:
    """Take chunk after chunk of the segment from its counter, and call the job's function on each.
    Where a counter belongs to another run, this thread came too late."""
    return f"""\
look:
  %held = phi i64 [ %mine, %segment ], [ %held.next, %work ]
  %seen = load atomic i64, ptr %next seq_cst, align 8
  br label %try
try:
  %at = phi i64 [ %seen, %look ], [ %now, %again ]
  %run = lshr i64 %at, {COUNT_BITS}
  %ours = icmp eq i64 %run, %number
  br i1 %ours, label %fresh, label %stale
fresh:
  %lo = add i64 %start, %at
  %left = icmp ult i64 %lo, %limit
  br i1 %left, label %take, label %next.segment
take:
  %to = add i64 %at, %chunk
  %swap = cmpxchg ptr %next, i64 %at, i64 %to seq_cst seq_cst
  %now = extractvalue {{ i64, i1 }} %swap, 0
  %got = extractvalue {{ i64, i1 }} %swap, 1
  br i1 %got, label %work, label %again
again:
  br label %try
work:
  %hi.far = add i64 %lo, %chunk
  %inside = icmp ult i64 %hi.far, %limit
  %hi = select i1 %inside, i64 %hi.far, i64 %limit
  call void %function(ptr %arguments, i64 %lo, i64 %hi)
  %items = sub i64 %hi, %lo
  %held.next = add i64 %held, %items
  br label %look
"""


def _leave_segment() -> str:
    """On to the next segment, round to where the thread began; then tell what it has done."""
    return """\
next.segment:
  %so.far = phi i64 [ %mine, %segment ], [ %held, %fresh ]
  %s.up = add i64 %s, 1
  %s.over = icmp eq i64 %s.up, %segments
  %s.next = select i1 %s.over, i64 0, i64 %s.up
  %visited.next = add i64 %visited, 1
  %all.seen = icmp eq i64 %visited.next, %segments
  br i1 %all.seen, label %taken, label %segment
taken:
  %nothing = icmp eq i64 %so.far, 0
  br i1 %nothing, label %wait, label %tell
tell:
  %before = atomicrmw add ptr %done, i64 %so.far seq_cst
  br label %wait
"""


def _wait_for_all(pause: str, give_way: str) -> str:
    """Until all items of the job are done, by whomever; after a while give the core away."""
    return f"""\
wait:
  %spins = phi i64 [ 0, %taken ], [ 0, %tell ], [ %spins.next, %spin ], [ %spins.next, %yield ]
  %ready = load atomic i64, ptr %done acquire, align 8
  %ready.run = lshr i64 %ready, {COUNT_BITS}
  %ready.ours = icmp eq i64 %ready.run, %number
  br i1 %ready.ours, label %count.items, label %stale
count.items:
  %all = icmp eq i64 %ready, %end
  br i1 %all, label %finished, label %spin
spin:
  call void {pause}
  %spins.next = add i64 %spins, 1
  %long = icmp ugt i64 %spins.next, {_SPINS}
  br i1 %long, label %yield, label %wait
yield:
  %ignored = call i32 @{give_way}()
  br label %wait
"""


def _end() -> str:
    """The next job, or 1 at the end; 0 where the thread came too late."""
    return """\
finished:
  %j.next = add i64 %j, 1
  %more = icmp ult i64 %j.next, %count
  br i1 %more, label %job, label %over
over:
  ret i64 1
stale:
  ret i64 0
}
"""


def _places(mailbox: str) -> str:
    """Pointers to the parts of the letter in a mailbox."""
    return "\n".join(
        f"  %p.{name} = getelementptr i64, ptr {mailbox}, i64 {place}"
        for place, name in enumerate(_LETTER, 1)
    )


def _serve(pause: str, give_way: str) -> str:
    return f"""\
; serve: mailbox = (ticket, jobs, count, counters, number, segments; busy), as thread `me`; returns
; after a while of silence.
define i64 @nnconv_serve(ptr %mailbox, i64 %last, i64 %me) #0 {{
entry:
{_places("%mailbox")}
  %p.busy = getelementptr i64, ptr %mailbox, i64 {LINE}
  br label %start
start:
  %known = phi i64 [ %last, %entry ], [ %ticket, %leave ]
  br label %watch
watch:
  %turns = phi i64 [ 0, %start ], [ %turns.next, %rest ], [ %turns.next, %yield ]
  %ticket = load atomic i64, ptr %mailbox seq_cst, align 8
  %differs = icmp ne i64 %ticket, %known
  %half = trunc i64 %ticket to i1
  %whole = xor i1 %half, true
  %new = and i1 %differs, %whole
  br i1 %new, label %enter, label %idle
idle:
  %turns.next = add i64 %turns, 1
  %long = icmp ugt i64 %turns.next, {_SPINS}
  br i1 %long, label %yield, label %rest
rest:
  call void {pause}
  br label %watch
yield:
  %ignored = call i32 @{give_way}()
  %tired = icmp ugt i64 %turns.next, {_SPINS + _IDLE_YIELDS}
  br i1 %tired, label %over, label %watch
enter:
  %jobs = load atomic ptr, ptr %p.jobs seq_cst, align 8
  store atomic ptr %jobs, ptr %p.busy seq_cst, align 8
  %count = load atomic i64, ptr %p.count seq_cst, align 8
  %counters = load atomic ptr, ptr %p.counters seq_cst, align 8
  %number = load atomic i64, ptr %p.number seq_cst, align 8
  %segments = load atomic i64, ptr %p.segments seq_cst, align 8
  %check = load atomic i64, ptr %mailbox seq_cst, align 8
  %same = icmp eq i64 %check, %ticket
  %some = icmp ne i64 %count, 0
  %go = and i1 %same, %some
  br i1 %go, label %help, label %leave
help:
  %result = call i64 @nnconv_run(ptr %jobs, i64 %count, ptr %counters, i64 %number,
    i64 %segments, i64 %me)
  br label %leave
leave:
  store atomic i64 0, ptr %p.busy seq_cst, align 8
  br label %start
over:
  ret i64 %known
}}
"""


def _lead() -> str:
    return f"""\
; lead: mark the counters with this run's number, put it into `helpers` mailboxes, work along.
define i64 @nnconv_lead(ptr %jobs, i64 %count, ptr %counters, i64 %number, i64 %segments, ptr %mail,
  i64 %helpers) #0 {{
entry:
  %tag = shl i64 %number, {COUNT_BITS}
  %lines = add i64 %segments, 1
  %all = mul i64 %count, %lines
  %any = icmp ne i64 %count, 0
  br i1 %any, label %mark, label %marked
mark:
  %c = phi i64 [ 0, %entry ], [ %c.next, %mark ]
  %c.at = mul i64 %c, {LINE}
  %counter = getelementptr i64, ptr %counters, i64 %c.at
  store atomic i64 %tag, ptr %counter release, align 8
  %c.next = add i64 %c, 1
  %c.more = icmp ult i64 %c.next, %all
  br i1 %c.more, label %mark, label %marked
marked:
  %alone = icmp eq i64 %helpers, 0
  br i1 %alone, label %go, label %post
post:
  %h = phi i64 [ 0, %marked ], [ %h.next, %post ]
  %h.at = mul i64 %h, {MAIL_WORDS}
  %box = getelementptr i64, ptr %mail, i64 %h.at
{_places("%box")}
  ; the ticket is odd while the letter is being written: a reader that saw either half comes again
  %odd = atomicrmw add ptr %box, i64 1 seq_cst
  store atomic ptr %jobs, ptr %p.jobs seq_cst, align 8
  store atomic i64 %count, ptr %p.count seq_cst, align 8
  store atomic ptr %counters, ptr %p.counters seq_cst, align 8
  store atomic i64 %number, ptr %p.number seq_cst, align 8
  store atomic i64 %segments, ptr %p.segments seq_cst, align 8
  %even = atomicrmw add ptr %box, i64 1 seq_cst
  %h.next = add i64 %h, 1
  %h.more = icmp ult i64 %h.next, %helpers
  br i1 %h.more, label %post, label %go
go:
  br i1 %any, label %work, label %over
work:
  %result = call i64 @nnconv_run(ptr %jobs, i64 %count, ptr %counters, i64 %number,
    i64 %segments, i64 0)
  ret i64 %result
over:
  ret i64 1
}}
"""


_ALONE = f"""\
; alone: all items of each of `count` jobs, one job after the other.
define i64 @nnconv_alone(ptr %jobs, i64 %count) #0 {{
entry:
  br label %job
job:
  %j = phi i64 [ 0, %entry ], [ %j.next, %job ]
  %j.at = mul i64 %j, {JOB_WORDS}
  %p.function = getelementptr i64, ptr %jobs, i64 %j.at
  %p.arguments = getelementptr i64, ptr %p.function, i64 1
  %p.total = getelementptr i64, ptr %p.function, i64 2
  %function = load ptr, ptr %p.function
  %arguments = load ptr, ptr %p.arguments
  %total = load i64, ptr %p.total
  call void %function(ptr %arguments, i64 0, i64 %total)
  %j.next = add i64 %j, 1
  %more = icmp ult i64 %j.next, %count
  br i1 %more, label %job, label %over
over:
  ret i64 1
}}
"""
