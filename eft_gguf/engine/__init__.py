"""What runs: the models in llama.cpp, the sequences on them, and the step that gives each its next token."""
