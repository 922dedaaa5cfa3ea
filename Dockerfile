# One image for workers, edges and set-up; docker-compose.yml says which is which.
FROM python:3.11-slim AS build
WORKDIR /source
COPY . .
RUN python -m venv /opt/orderflow \
 && /opt/orderflow/bin/pip install --no-cache-dir --disable-pip-version-check --constraint requirements.lock .

FROM python:3.11-slim
# The data directory belongs to the user before a volume is laid over it, so the volume does too.
RUN useradd --system --uid 10001 --create-home orderflow \
 && install -d -o orderflow -g orderflow /var/lib/orderflow
COPY --from=build /opt/orderflow /opt/orderflow
ENV PATH=/opt/orderflow/bin:$PATH PYTHONUNBUFFERED=1
USER orderflow
WORKDIR /var/lib/orderflow
CMD ["orderflow", "--help"]
