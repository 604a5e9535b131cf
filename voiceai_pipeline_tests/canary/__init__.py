"""The canary run: distinct invented secrets go through the whole product, and then every surface
on which one could turn up is scanned (REQUIREMENTS X1). ``make canary`` runs it alone.
"""
