"""The detector in a process of its own: how an application starts, follows and ends it and reads its files.

Standard library and numpy only, and nothing here imports the detector: an application may import this
package whether or not torch is installed.
"""
