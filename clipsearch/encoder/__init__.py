"""An exported encoder folder, loaded to encode texts and images."""
