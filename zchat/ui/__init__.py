"""Faces: what people and scripts see."""
