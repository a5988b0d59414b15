"""What leaves the lab as a file, and what comes back: snapshots, HTML, JSON, CSV, traces."""
