#!/bin/sh
# Convert the shipped Caffe LeNet to .nnir, look at it, let it read six digits, write it back as Caffe.
set -eu
lenet=$(dirname "$0")/../nnconv/zoo/models/lenet
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

step() {
    printf '\n$ %s\n' "$*"
    "$@"
}

step nnconv caffe2ir "$lenet/lenet.prototxt" "$lenet/lenet.caffemodel" \
    --scale 0.00390625 --labels "$lenet/labels.txt" -o "$out/lenet.nnir"
step nnconv show "$out/lenet.nnir"
step nnconv run "$out/lenet.nnir" --image "$lenet/digits"
step nnconv ir2caffe "$out/lenet.nnir" -o "$out/lenet.prototxt" --weights "$out/lenet.caffemodel"
