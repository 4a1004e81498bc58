"""What a teacher writes, and the engines that make it write."""
