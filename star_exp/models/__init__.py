"""Where M_0 comes from: made on the spot, the hub, a folder, or a GGUF inside of a package."""
