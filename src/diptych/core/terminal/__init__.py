"""What people see while a command runs, and how they stop it."""
