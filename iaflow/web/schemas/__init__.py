"""What the API takes and replies, a file for each subject.

Decides the shapes that are promised to clients; what iaflow keeps is never shown as it is.
"""
