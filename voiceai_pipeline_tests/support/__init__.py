"""What several tests share: the product, receivers of alerts, calls and their oracle, stand-ins."""
