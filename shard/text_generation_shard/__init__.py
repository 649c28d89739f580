"""Computes things: executes the router's steps on one rank's part of the model.

Owns tensors; decides nothing, and knows neither HTTP nor text.
"""
