"""The pages of the app: shells, without a formula."""
