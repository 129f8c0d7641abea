"""What surrounds a JAX program: devices, processes, files, downloads, signals, compiler options."""
