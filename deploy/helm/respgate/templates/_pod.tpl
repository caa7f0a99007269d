{{/* The variables of respgate's container. `respgate status`, `doctor` and `ctl` in it use them too. */}}
{{- define "respgate.env" -}}
- name: RESPGATE_CONFIG
  value: /etc/respgate/respgate.toml
- name: RESPGATE_ADMIN
  value: {{ printf "%s:%d" .Values.bindAddress (int .Values.admin.port) | quote }}
{{- if .Values.control.enabled }}
# For `respgate ctl`.
- name: RESPGATE_CONTROL_SOCKET
  value: /run/respgate/control.sock
{{- end }}
{{- with .Values.upstream.urlFrom }}
{{- if .configMap }}
- name: RESPGATE_UPSTREAM
  valueFrom:
    configMapKeyRef: { name: {{ .configMap | quote }}, key: {{ .key | quote }} }
{{- else if .secret }}
- name: RESPGATE_UPSTREAM
  valueFrom:
    secretKeyRef: { name: {{ .secret | quote }}, key: {{ .key | quote }} }
{{- end }}
{{- end }}
{{- with .Values.upstream.sentinelFrom }}
{{- if .configMap }}
- name: REDIS_SENTINEL_HOST
  valueFrom:
    configMapKeyRef: { name: {{ .configMap | quote }}, key: {{ .hostKey | quote }} }
{{- if .portKey }}
- name: REDIS_SENTINEL_PORT
  valueFrom:
    configMapKeyRef: { name: {{ .configMap | quote }}, key: {{ .portKey | quote }} }
{{- end }}
- name: RESPGATE_UPSTREAM
  value: {{ printf "%s://$(REDIS_SENTINEL_HOST)%s/%d#%s" (ternary "rediss-sentinel" "redis-sentinel" .tls) (ternary ":$(REDIS_SENTINEL_PORT)" "" (ne .portKey "")) (int .database) .primaryName | quote }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "respgate.securityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
privileged: false
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "respgate.container" -}}
{{- $sidecar := eq .Values.mode "sidecar" -}}
name: respgate
image: {{ include "respgate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if $sidecar }}
# A native sidecar: starts before the application's containers, and ends after them.
restartPolicy: Always
{{- end }}
env:
  {{- include "respgate.env" . | nindent 2 }}
ports:
  {{- if not $sidecar }}
  - name: redis
    containerPort: {{ .Values.listener.port }}
  {{- with .Values.listener.readPort }}
  - name: redis-read
    containerPort: {{ . }}
  {{- end }}
  {{- end }}
  - name: admin
    containerPort: {{ .Values.admin.port }}
# Passes once a primary is verified. A sidecar's application starts after that.
startupProbe:
  httpGet: { path: /readyz, port: admin }
  periodSeconds: 1
  failureThreshold: 120
{{- if not $sidecar }}
# {{ mul .Values.readiness.periodSeconds .Values.readiness.failureThreshold }} s: longer than a failover, so that pods stay in the Service and hold the commands of their clients.
readinessProbe:
  httpGet: { path: /readyz, port: admin }
  periodSeconds: {{ .Values.readiness.periodSeconds }}
  failureThreshold: {{ .Values.readiness.failureThreshold }}
{{- end }}
# Not /readyz: a failover is no reason to restart anything.
livenessProbe:
  httpGet: { path: /livez, port: admin }
  periodSeconds: 10
  failureThreshold: 3
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "respgate.securityContext" . | nindent 2 }}
volumeMounts:
  # Folders, not single files: Kubernetes renews only those in a running pod.
  - { name: respgate-config, mountPath: /etc/respgate, readOnly: true }
  {{- if .Values.control.enabled }}
  - { name: respgate-run, mountPath: /run/respgate }
  {{- end }}
  {{- if include "respgate.passwordSecret" . }}
  - { name: respgate-upstream-password, mountPath: /run/secrets/respgate/upstream-password, readOnly: true }
  {{- end }}
  {{- if .Values.upstream.sentinelPasswordSecret.name }}
  - { name: respgate-sentinel-password, mountPath: /run/secrets/respgate/sentinel-password, readOnly: true }
  {{- end }}
  {{- if or .Values.upstream.ca.configMap .Values.upstream.ca.secret }}
  - { name: respgate-upstream-ca, mountPath: /run/secrets/respgate/upstream-ca, readOnly: true }
  {{- end }}
  {{- if include "respgate.clientSecret" . }}
  - { name: respgate-upstream-tls, mountPath: /run/secrets/respgate/upstream-tls, readOnly: true }
  {{- end }}
  {{- if include "respgate.listenerSecret" . }}
  - { name: respgate-listener-tls, mountPath: /run/secrets/respgate/listener-tls, readOnly: true }
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* A list with one native sidecar, for initContainers. */}}
{{- define "respgate.sidecar" -}}
{{- include "respgate.check" . -}}
{{- if ne .Values.mode "sidecar" -}}
{{- fail "the template respgate.sidecar needs mode sidecar" -}}
{{- end -}}
- {{ include "respgate.container" . | indent 2 | trim }}
{{- end }}

{{/*
The volumes of respgate's container. Only that container mounts them. A sidecar's pod may have no fsGroup, so its files
can be read by any user unless secretMode says otherwise; else only by fsGroup.
*/}}
{{- define "respgate.volumes" -}}
{{- $mode := .Values.secretMode | default (ternary 0444 0440 (eq .Values.mode "sidecar")) | int -}}
- name: respgate-config
  configMap: { name: {{ include "respgate.fullname" . }} }
{{- if .Values.control.enabled }}
- name: respgate-run
  emptyDir: { sizeLimit: 1Mi }
{{- end }}
{{- with include "respgate.passwordSecret" . }}
- name: respgate-upstream-password
  secret:
    secretName: {{ . | quote }}
    defaultMode: {{ $mode }}
    items: [{ key: {{ $.Values.upstream.passwordSecret.key | quote }}, path: password }]
{{- end }}
{{- if .Values.upstream.sentinelPasswordSecret.name }}
- name: respgate-sentinel-password
  secret:
    secretName: {{ .Values.upstream.sentinelPasswordSecret.name | quote }}
    defaultMode: {{ $mode }}
    items: [{ key: {{ .Values.upstream.sentinelPasswordSecret.key | quote }}, path: password }]
{{- end }}
{{- with .Values.upstream.ca }}
{{- if .configMap }}
- name: respgate-upstream-ca
  configMap: { name: {{ .configMap | quote }}, items: [{ key: {{ .key | quote }}, path: ca.crt }] }
{{- else if .secret }}
- name: respgate-upstream-ca
  secret: { secretName: {{ .secret | quote }}, defaultMode: {{ $mode }}, items: [{ key: {{ .key | quote }}, path: ca.crt }] }
{{- end }}
{{- end }}
{{- with include "respgate.clientSecret" . }}
- name: respgate-upstream-tls
  secret: { secretName: {{ . | quote }}, defaultMode: {{ $mode }} }
{{- end }}
{{- with include "respgate.listenerSecret" . }}
- name: respgate-listener-tls
  secret: { secretName: {{ . | quote }}, defaultMode: {{ $mode }} }
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The settings of a pod that hold for all its containers. */}}
{{- define "respgate.podSecurity" -}}
automountServiceAccountToken: false
# The variables of a Service named respgate would look like settings of respgate.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end }}
