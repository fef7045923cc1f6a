"""What a service.py of BentoML imports, in our own words: classes of @bentoml.service with methods of @bentoml.api.

    descriptors   a method's parameters and answer: JSON schema, parsing, writing
    methods       @bentoml.api and @bentoml.task
    services      @bentoml.service, and the context of a request
    requests      a request's arguments; batches: several as one call; replies: answers and errors
    stored        models of a model store that lies beside the service
    exceptions    what a method may raise, with its HTTP status

`workers/loaders/bentoml_compat` gives them the names that a service imports.
"""
