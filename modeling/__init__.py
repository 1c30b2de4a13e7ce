"""The modelling code, installed as ``mice_st.modeling``; its other files are copied into every Hub repository."""
