"""What people see. Parses, calls one command, renders one `Result`; holds no logic of its own."""
