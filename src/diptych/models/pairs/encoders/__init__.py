"""Two towers with what their training adds: memories, teachers, prototypes, several texts per image."""
