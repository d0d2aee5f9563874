"""The project itself: its style, its documentation, and its tests."""
