"""What the benchmark scripts are made of: each file here measures one thing, or tells about machine and models."""
