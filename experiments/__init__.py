"""What is asked: experiments, one a file, and the engine that answers them."""
