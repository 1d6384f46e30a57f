"""What only one installation knows: code names, its own patterns, and tables whose rows must not leave."""
