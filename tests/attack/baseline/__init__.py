"""What the runner is compared with: bare mitmdump and an addon as many people would write it."""
