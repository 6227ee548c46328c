"""How figures look: what the report, the paper's page and the documentation have in common."""
