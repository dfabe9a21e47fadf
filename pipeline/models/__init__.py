"""Trained heads on disk and the caches that they read: what training, predicting, submitting and exporting share."""
