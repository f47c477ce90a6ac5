"""Taking a file in while it arrives: form, lines, checks, and the two objects it leaves. Memory stays flat."""
