"""kanglue: embed once, fit a thousand heads."""
