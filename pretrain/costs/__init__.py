"""What a training run costs, known before it starts: parameters, memory, floating-point operations, hours."""
