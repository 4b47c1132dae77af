"""The catalog: a product service whose events carry only the product's id."""
