"""The pages, a module each: `routes(viewer)` returns what it answers. Templates are in `view/templates`."""
