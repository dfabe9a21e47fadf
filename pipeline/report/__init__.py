"""Statistics over a sweep, in words, pictures and one HTML file."""
