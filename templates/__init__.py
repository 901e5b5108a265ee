"""Text that bigm renders for others to read: user data, units, manifests, pages. Shipped as `bigm.templates`."""
