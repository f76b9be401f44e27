"""What does an embedding space know about classes it has never seen?"""

__version__ = "0.1.0"
