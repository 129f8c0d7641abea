"""What surrounds a JAX program: devices, processes, files, signals, compiler options."""
