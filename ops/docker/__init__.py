"""Images, and what the containers' first start and health need."""
