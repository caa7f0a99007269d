"""respgate beside its peers: the same server, the same load, measured in interleaved rounds."""
