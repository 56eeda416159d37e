const place = document.getElementById("swagger-ui");
SwaggerUIBundle({ url: place.dataset.openapi, dom_id: "#swagger-ui", validatorUrl: null });
