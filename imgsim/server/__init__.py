"""The web application over one collection: pages for people, and a REST service for scripts."""
