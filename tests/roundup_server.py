"""Serves a Roundup tracker by its WSGI handler: `python roundup_server.py HOME PORT`, on loopback.

Roundup's own server does not run as root, as which tests may run.
"""

import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server

from roundup.cgi.wsgi_handler import RequestDispatcher


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    with make_server("127.0.0.1", int(sys.argv[2]), RequestDispatcher(sys.argv[1]), server_class=_Server) as server:
        server.serve_forever()
