"""What several folders of tests share: runs, and what goes into them."""
