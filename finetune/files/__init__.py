"""Files and folders: written whole, replaced only where they are ours, read only where they end."""
