"""Webhooks of payment providers: who really sent them, and what they say.

A source verifies the bytes as they came before anything reads them (port.py); sources.py knows the secrets of each.
"""
