"""The camera source: a live camera, or a video file, asked for frames.

    driver process ─┐ frames
    MJPEG reader ───┴─▶ feed (newest, or a ring) ──▶ source: crop, save as an image ──▶ offer ──▶ … ──▶ release

source    what is asked for and when; what a frame becomes
feed      the thread that never stops reading: newest or all, gaps, reconnect, frozen pictures
store     inspected frames on disk, and how long they stay
grabber   the port behind which all cameras look alike
mjpeg     HTTP multipart, read by ourselves
process   a driver in a process of its own; ``child`` is that process
opencv, genicam, aravis   the drivers, each the one door to its library; loaded in the child only

This file imports nothing: the child starts through it.
"""
