"""A model over HTTP: FastAPI on uvicorn around :mod:`softmaxnet.service`; needs the extra ``serve``.

``settings`` what may be set, ``serve`` from settings to an exit code, ``run`` one process of it, ``app`` guards and
order, ``handlers`` what each path answers, ``body`` reading requests, ``work`` computing beside the event loop,
``protocol`` deadlines below HTTP, ``workers`` several processes.
"""
