"""``python -m synaptic_intelligence.cli``: the command where its script is not on the path."""

from synaptic_intelligence.cli import main

if __name__ == "__main__":
    main()
