"""What holds for every file of the project, checked in one pass over what git tracks."""
