"""Reading images and videos of strangers: limits first, in a process that can be ended."""
