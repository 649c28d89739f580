"""HTTP: routes, decoding, authorization, CORS, server-sent events and the error table.

The only package of the router that knows aiohttp.
"""
