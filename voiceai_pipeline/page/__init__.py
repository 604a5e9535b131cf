"""The page `Connections`: who is connected to HighLevel, why not, and the buttons that mend it.

Server-rendered, without JavaScript. It decides nothing about tokens or syncs: those are asked of
the core, and a sync is launched as a Dagster run. `app` is the table of contents.
"""
