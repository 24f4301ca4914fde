# The app for a team, see docs/serving.md:
#   docker build -t inspector .
#   docker run -p 127.0.0.1:8501:8501 -v /srv/photos:/data:ro -v inspector:/keep inspector
FROM python:3.12-slim-bookworm AS build
# An index with torch for processors alone makes the image several gigabytes smaller.
ARG TORCH_INDEX=""
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE app.py ./
COPY .streamlit/config.toml .streamlit/
COPY models models
COPY inspector inspector
RUN python -m venv /opt/inspector \
    && /opt/inspector/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
       -c constraints.txt ".[concepts,quick,serve]"

FROM python:3.12-slim-bookworm
# opencv-python is linked to what it would draw windows with.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libxcb1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 inspector \
    && install -d -o inspector -g inspector /keep /keep/cache /keep/models /keep/results /data
COPY --from=build /opt/inspector /opt/inspector
# The image is complete: at run time it asks no other host. Photos in /data may be read, /keep is written to.
ENV PATH=/opt/inspector/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    INSPECTOR_DATA=/data \
    INSPECTOR_CACHE=/keep/cache \
    INSPECTOR_MODELS=/keep/models \
    INSPECTOR_RESULTS=/keep/results \
    HF_HUB_OFFLINE=1 \
    STREAMLIT_SERVER_HEADLESS=true
USER inspector
WORKDIR /home/inspector
VOLUME /keep
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; assert urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4).read() == b'ok'"]
CMD ["inspector", "app", "--address", "0.0.0.0"]
