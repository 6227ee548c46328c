"""The paper on one page: each of its figures and numbers beside ours."""
