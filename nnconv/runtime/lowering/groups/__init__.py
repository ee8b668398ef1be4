"""Rules that hold on graphics cards alone, and there come before all others."""
