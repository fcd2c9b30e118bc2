"""The composition root: the only room that names concrete classes.

assembly   configuration ▸ the parts of a station
agent      their life: threads, signals' wishes, the order of stop
condition  what the station says of itself, and the care it takes of its disk
places     folders, the lock, free space
"""
